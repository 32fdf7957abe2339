//! The contract's world as Rust types, made from `wit/`.

wasmtime::component::bindgen!({
    path: "../../wit/v1",
    world: "module",
    imports: { default: async | trappable },
    exports: { default: async },
});
