"""What the service keeps: limits here, tables and blobs beside them."""
