"""Resources that runs mount: fetched once per machine, kept as long as there is room, and never written to."""
