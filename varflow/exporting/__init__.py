"""Flows as source code: one file of C or Fortran that needs neither Python nor a library."""
