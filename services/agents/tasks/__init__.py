"""What agents can be asked to do, a file each."""
