# Needs the target wasm32-wasip2: rustup target add wasm32-wasip2
LEGATUS ?= legatus
CARGO ?= cargo
BUILT = build/wasm32-wasip2/release/NAME_SNAKE.wasm

NAME.wasm: Cargo.toml src/lib.rs $(wildcard sdk/src/*.rs sdk/src/*/*.rs)
	$(CARGO) build --release --target wasm32-wasip2 --target-dir build $(CARGO_FLAGS)
	cp $(BUILT) $@

test: NAME.wasm
	mkdir -p build/module
	cp module.toml NAME.wasm build/module
	$(LEGATUS) modules test build/module

.PHONY: test
