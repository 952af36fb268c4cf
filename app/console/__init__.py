"""What people look at: reports as pages and tables."""
