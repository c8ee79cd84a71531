//! The edge proxy between real clients and real servers, on loopback.

mod certs;
mod edge;
mod grpc;
mod http;
mod identity;
mod limits;
mod logs;
mod peers;
mod raw;
mod smuggling;
mod tls;
mod websocket;
