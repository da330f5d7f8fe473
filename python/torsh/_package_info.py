"""What a loaded package says of itself: of its inputs, outputs and machine code."""

from collections import namedtuple

Port = namedtuple("Port", ("name", "dtype", "shape"))
Port.__doc__ = """An input or output of a program: its name, dtype and shape. A size is an int, a `torsh.Dim`, or, of an
output, text such as `2*batch+1`."""


Code = namedtuple("Code", ("level", "kernels", "unused"))
Code.__doc__ = """Machine code in a package: its instruction set level or CUDA architecture, the kernels that it has
code of, and why it is not used, or None where it is: then kernels of the program are looked for there before they are
compiled, those for CUDA by devices that run the architecture."""


Lowered = namedtuple("Lowered", ("entry", "steps", "unused"))
Lowered.__doc__ = """A lowered program in a package: its entry, its steps, and why it is not used, or None where it is:
then no pass runs."""
