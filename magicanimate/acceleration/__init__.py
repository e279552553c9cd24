"""Speed-ups of the sampling loop, one per file. `magicanimate.sampling` does the job without any of them.

Most take `Networks` and return them with one function replaced; `MagicAnimatePipeline` puts them together.
The exact ones (`options.OptimizationConfig`) give the same result within rounding; the approximations are
`magicanimate.acceleration.options.Approximations`.
"""
