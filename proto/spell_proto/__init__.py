"""The vocabulary every part of spellrun speaks: states, specs, facts, commands, subjects, codecs."""
