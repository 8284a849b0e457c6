/* Read the weights of the networks, which all functions are given, from the file NAME.bin that belongs to this
   source: its size and its SHA-256 sum are compared. weights: room for NAME_N_WEIGHTS numbers; if the status is not
   NAME_OK, NaN. */
int NAME_load(const char *path, NAME_real *weights);
