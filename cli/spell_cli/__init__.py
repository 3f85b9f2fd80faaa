"""The command line of spellrun: asks the server over HTTP, and shows what it says."""
