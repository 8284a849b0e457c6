/* The weights of the networks, which all functions are given. */
extern const NAME_real NAME_weights[NAME_N_WEIGHTS];
