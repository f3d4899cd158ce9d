"""Settings of the documentation site, which `make docs` builds into site/ without a network.

Sphinx with MyST: the pages stay plain Markdown that any viewer shows, the reference comes from the docstrings, and files outside docs/ that
a page links to are copied into the site. Both tools are maintained; Material for MkDocs announced its end of life for 2027.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

project = "expunge"
author = "the expunge developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["conf.py", "leaderboards/*.html"]
myst_enable_extensions = ["deflist", "attrs_inline"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
html_theme = "furo"
html_title = "expunge"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "native"
