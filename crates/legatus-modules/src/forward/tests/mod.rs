//! Both halves of `forward` against each other, through channels of a few bytes and real sockets.

mod allowed;
mod connections;
mod reconnecting;
mod requests;
mod socks;
mod support;
