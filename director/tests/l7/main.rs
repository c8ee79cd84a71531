//! The edge proxy between real clients and real servers, on loopback.

mod certs;
mod edge;
mod failover;
mod grpc;
mod http;
mod identity;
mod limits;
mod logs;
mod peers;
mod raw;
mod slow;
mod smuggling;
mod streams;
mod tls;
mod websocket;
