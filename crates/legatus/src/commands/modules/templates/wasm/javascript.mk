# Needs componentize-qjs: npm install -g componentize-qjs
LEGATUS ?= legatus
COMPONENTIZE_QJS ?= componentize-qjs

NAME.wasm: app.js wit/module.wit
	$(COMPONENTIZE_QJS) --wit wit --world commander-module --js app.js --sync --opt-size --output $@

test: NAME.wasm
	$(LEGATUS) modules test .

.PHONY: test
