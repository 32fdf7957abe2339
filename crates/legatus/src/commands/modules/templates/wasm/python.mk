# Needs componentize-py: pip install componentize-py
LEGATUS ?= legatus
COMPONENTIZE_PY ?= componentize-py

NAME.wasm: app.py wit/module.wit
	$(COMPONENTIZE_PY) -q -d wit -w commander-module componentize -p . -o $@ app

test: NAME.wasm
	$(LEGATUS) modules test .

.PHONY: test
