"""One file a kind of preference model; `sppo.judging.registry` imports them all."""
