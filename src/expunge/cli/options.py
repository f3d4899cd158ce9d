"""Options that the commands of several files share."""

from __future__ import annotations

from typing import Annotated

import typer

Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the contents of the run folder")]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="load weights that are stored as pickles, which can run code")]
Remote = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with a model")]
Dtype = Annotated[str, typer.Option(help="type of the weights: float32, bfloat16, float16; default: that of the files is written")]
