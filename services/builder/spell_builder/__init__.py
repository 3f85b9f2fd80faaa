"""Makes environments: a request becomes exact versions, and exact versions become a directory, once."""
