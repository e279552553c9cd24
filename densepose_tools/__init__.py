"""Making and reading DensePose motion signals. Nothing heavy is imported here."""
