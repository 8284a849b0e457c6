/* Bounds of latent space */
static const double zeros[NAME_D] = {@ZEROS@}, ones[NAME_D] = {@ONES@};

int NAME_to_latent(int64_t n, const double *x, double *z, double *log_q, const real *weights, NAME_workspace *work)
{
    return n > 0 && !z ? NAME_BAD_ARGUMENT : evaluate(n, x, z, log_q, weights, work);
}

int NAME_from_latent(int64_t n, const double *z, double *x, double *log_q, const real *weights, NAME_workspace *work)
{
    int status = NAME_OK;
    if (n < 0 || !weights || !work || (n > 0 && (!z || !x || !log_q)))
        return NAME_BAD_ARGUMENT;
    for (int64_t done = 0; done < n; done += TILE) {
        const int m = tile_size(n, done);
        if (load_points(work->latent, z + done * NAME_D, m, zeros, ones, work) != NAME_OK)
            status = NAME_OUTSIDE;
        for (int r = 0; r < m; r++)
            work->component[r] = 0;
        from_component(0, m, weights, work);
        store_points(x + done * NAME_D, log_q + done, work->points, m, work);
    }
    return status;
}
