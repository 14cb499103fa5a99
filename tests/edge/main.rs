//! The edge of the server, on the real program over real sockets: TLS, certificates of either side, the PROXY
//! protocol, what clients may cost, how it ends, and what it needs of the system.

mod certificates;
mod cost;
mod ending;
mod process;
mod proxy_protocol;
mod rights;
mod tls;
mod upstream_certificates;
