"""Speed-ups of the sampling loop. `magicanimate.sampling` does the job without any of them.

Most take `Networks` and return them with one function replaced; `accelerated` in `layers` puts them together,
and each can be deleted with its function and its line there. `options` has the exact ones
(`OptimizationConfig`), which give the same result within rounding, and the approximations (`Approximations`).
"""
