/* Map points x of the box to latent points z of the unit cube; log_q as NAME_log_prob. z may be x. */
int NAME_to_latent(int64_t n, const double *x, double *z, double *log_q, const NAME_real *weights,
                   NAME_workspace *work);

/* Map latent points z of the unit cube to points x of the box; log_q of these. x may be z. */
int NAME_from_latent(int64_t n, const double *z, double *x, double *log_q, const NAME_real *weights,
                     NAME_workspace *work);
