//! popgate.

pub mod admin;
pub mod config;
pub mod maildrop;
pub mod secret;

use tokio_util::sync::CancellationToken;

/// Stands in for the daemon: binds what it would and waits.
pub async fn run(config: config::Config, shutdown: CancellationToken) -> std::io::Result<()> {
    let mut listeners = Vec::new();
    for address in config.pop3.clear.iter().chain(&config.pop3.tls) {
        listeners.push(tokio::net::TcpListener::bind(address).await?);
    }
    let Some(address) = config.admin else {
        shutdown.cancelled_owned().await;
        return Ok(());
    };
    let listener = tokio::net::TcpListener::bind(address).await?;
    let ready = std::sync::Arc::new(true.into());
    admin::serve(listener, prometheus::Registry::new(), ready, shutdown).await
}

/// Stands in for the demo.
pub mod demo {
    use tokio_util::sync::CancellationToken;

    /// Waits.
    pub async fn run(_port_base: u16, shutdown: CancellationToken) -> std::io::Result<()> {
        shutdown.cancelled_owned().await;
        Ok(())
    }
}
