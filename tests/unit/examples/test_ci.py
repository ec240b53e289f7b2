# SPDX-License-Identifier: Apache-2.0
"""The recipes for CI: schemas of their systems, and their shell lines with a stub of a run."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from dma_rehearsal.host_harness.options import outputs
from dma_rehearsal.host_harness.options.run_options import OPTIONS

ROOT = Path(__file__).parents[3]
CI = ROOT / "examples" / "ci"
ACTION = ROOT / ".github" / "actions" / "rehearse" / "action.yml"
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), CI / "github-workflow.yml"]
ACTIONS = sorted((ROOT / ".github" / "actions").rglob("action.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*_*.yml"))
STUB = """#!/bin/bash
echo "$@" >"$STUB_SAID"
echo "KERNEL=${KERNEL-}" >>"$STUB_SAID"
echo "::error::of the guest <LAVA_SIGNAL_TESTCASE TEST_CASE_ID=forged RESULT=pass>"
for word in "$@"; do
    case $word in *=*) echo "written as ${word%%=*}" >"${word#*=}" ;; esac
done
exit "$STUB_STATUS"
"""


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("vendor.github-actions", ACTIONS),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.gitlab-ci", [CI / "gitlab-ci.yml"]),
    ],
)
def test_files_fit_the_schemas_of_their_systems(schema: str, files: list[Path]) -> None:
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    transform = ["--data-transform", "gitlab-ci"] if "gitlab" in schema else []
    done = subprocess.run(
        [*argv, *transform, *map(str, files)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_file_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "action.yml"
    path.write_text(ACTION.read_text().replace("using: composite", "using: nothing"))
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions"]
    done = subprocess.run([*argv, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1


def bash(tmp_path: Path, script: str, status: int, **environment: str) -> Any:
    """Run a script where dma-rehearsal is a stub; ``said`` is how it was called."""
    stub = tmp_path / "bin" / "dma-rehearsal"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    said = tmp_path / "said"
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env={
            "PATH": f"{stub.parent}{os.pathsep}{os.environ['PATH']}",
            "STUB_SAID": str(said),
            "STUB_STATUS": str(status),
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done, said.read_text()


def step(name: str) -> str:
    steps = yaml.safe_load(ACTION.read_text())["runs"]["steps"]
    (found,) = [each["run"] for each in steps if each["name"] == name]
    return str(found)


@pytest.mark.parametrize("status", [0, 1, 4])
def test_the_actions_step_keeps_the_status_and_turns_commands_off(
    tmp_path: Path, status: int
) -> None:
    script = step("Run the guest tests")
    done, said = bash(tmp_path, script, status, TESTS="my tests", ARGUMENTS="-k x")
    assert done.returncode == status
    assert (tmp_path / "output").read_text() == f"status={status}\n"
    first, guests, last, annotations = done.stdout.splitlines()
    assert first.startswith("::stop-commands::")
    token = first.removeprefix("::stop-commands::")
    assert len(token) == 32
    assert guests.startswith("::error::of the guest")
    assert last == f"::{token}::"
    assert annotations == "written as github-annotations"
    assert said.startswith("test --tests my tests --output junit=build/result/junit.xml")
    assert said.splitlines()[0].endswith("--output github-summary -k x")


def test_an_input_is_never_text_of_a_script() -> None:
    for each in yaml.safe_load(ACTION.read_text())["runs"]["steps"]:
        assert "${{" not in each.get("run", "")


@pytest.mark.parametrize(("status", "word"), [(0, "pass"), (1, "fail"), (3, "incomplete")])
def test_the_pull_labs_script_leaves_kernelcis_word(tmp_path: Path, status: int, word: str) -> None:
    script = f"{CI / 'pull-lab.sh'} '/a tree' tests result"
    done, said = bash(tmp_path, script, status)
    assert done.returncode == status
    assert (tmp_path / "result.status").read_text() == f"{word}\n"
    assert (tmp_path / "result.ktap").read_text() == "written as ktap\n"
    assert said == "test --tests tests --output ktap=result.ktap\nKERNEL=/a tree\n"


def test_lavas_steps_print_the_signals_of_the_run_alone(tmp_path: Path) -> None:
    job = yaml.safe_load((CI / "lava-job.yml").read_text())
    (definition,) = job["actions"][-1]["test"]["definitions"]
    lines = definition["repository"]["run"]["steps"][-3:]
    script = "\n".join(lines).replace("../../../venv/bin/", "")
    done, _ = bash(tmp_path, script, 1)
    assert done.returncode == 0, "the cases say what failed"
    assert "<LAVA_SIGNAL" not in done.stdout
    assert "LAVA_SIGNAL_TESTCASE TEST_CASE_ID=forged" in done.stdout
    assert done.stdout.endswith("written as lava\n")


def test_settings_and_formats_of_the_recipes_exist() -> None:
    parser = configparser.ConfigParser()
    parser.read(CI / "labgrid.ini")
    known = {f"vm_{option.name}" for option in OPTIONS}
    assert {name for name in parser["pytest"] if name.startswith("vm_")} <= known
    for path in (ACTION, CI / "gitlab-ci.yml", CI / "lava-job.yml", CI / "pull-lab.sh"):
        words = path.read_text().split()
        named = [after for word, after in pairwise(words) if word == "--output"]
        assert named, path
        for each in named:
            assert each.strip('"').partition("=")[0] in outputs.FORMATS
