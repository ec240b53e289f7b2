# SPDX-License-Identifier: Apache-2.0
"""Sphinx's configuration: `make docs` builds the site from docs/ and the docstrings."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

project = "dma-rehearsal"
author = "the dma-rehearsal contributors"
project_copyright = author
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "dma-rehearsal"
html_copy_source = False
html_show_sphinx = False

# Every link is checked, headings of other pages included.
nitpicky = False
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block"]

# Docstrings name code in single backticks, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
