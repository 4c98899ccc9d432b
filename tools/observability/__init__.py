"""What deploy/observability is made with, and the programs that its tests run."""
