"use strict";
// Filter and search of the table. Everything else of the page works without this.
const form = document.getElementById("filter");
if (form) {
  const search = document.getElementById("search");
  const found = document.getElementById("found");
  const bodies = [...document.querySelectorAll("#promises > tbody")];
  const words = new Map(bodies.map((each) => [each, each.textContent.toLowerCase()]));
  const boxes = [...form.querySelectorAll("input[type=checkbox]")];
  const filter = () => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdicts = new Set(boxes.filter((each) => each.checked).map((each) => each.value));
    let shown = 0;
    for (const body of bodies) {
      const fits = verdicts.has(body.dataset.verdict)
        && wanted.every((word) => words.get(body).includes(word));
      body.hidden = !fits;
      shown += fits;
      for (const row of body.querySelectorAll(".inner tr")) {
        const own = (body.rows[0].cells[0].textContent + row.textContent).toLowerCase();
        row.hidden = !wanted.every((word) => own.includes(word));
      }
    }
    found.textContent = `${shown} of ${bodies.length} promises`;
  };
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("open-all").addEventListener("click", (event) => {
    const all = [...document.querySelectorAll("#promises details")];
    const open = !all.every((each) => each.open);
    for (const each of all) each.open = open;
    event.target.textContent = open ? "Close all" : "Open all";
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input")) {
      event.preventDefault();
      search.focus();
    }
  });
  filter();
}
// A link to a failure opens it.
const open = () => {
  const named = location.hash && document.getElementById(location.hash.slice(1));
  if (named && named.tagName === "DETAILS") named.open = true;
};
addEventListener("hashchange", open);
open();
