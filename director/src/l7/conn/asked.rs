//! What pingora asks of a connection besides reading and writing.

use std::{os::fd::AsRawFd as _, sync::Arc};

use async_trait::async_trait;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, raw_connect::ProxyDigest, tls::SslDigest,
};
use tokio::io::AsyncWriteExt;

use super::{CLOSING, Conn, tcp};

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        // A client that takes nothing more does not keep us.
        let _ = tokio::time::timeout(CLOSING, AsyncWriteExt::shutdown(self)).await;
        if self.is_unfinished() {
            self.linger().await;
        }
    }
}

impl UniqueID for Conn {
    fn id(&self) -> i32 {
        tcp(&self.transport).as_raw_fd()
    }
}

impl Ssl for Conn {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.is_h2.then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl Peek for Conn {}
