"""varflow inside programs in C and Fortran: the shared library, and the Python that runs in it.

`build` compiles `libvarflow.c`, which finds Python (`place`) and starts it, and puts `varflow.h` and
`varflow.f90` beside it. `entry` is where calls of the host program arrive; `integrals`, `trainings`,
`flows` and `files` do what they ask for.
"""
