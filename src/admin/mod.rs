//! The admin port: `/metrics`, `/livez` and `/readyz`, for machines.
//!
//! Anybody who can connect may ask, so that nothing here is secret and nobody can occupy it: there
//! is a limit to the connections, beyond which the oldest makes room, and one to the time between two
//! answers on each.

mod open_metrics;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::error;

/// A few scrapers and probes. One more, and the oldest is closed: who asks and is answered was here for
/// moments only, so that those who stay without asking keep nobody out.
const CONNECTIONS_MAX: usize = 64;

/// From accept, or from the last octet of an answer, to the first octet of the next answer. Who
/// keeps a connection open for longer between two requests has to open another.
const ANSWER_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// For answers that are under way when it is time to stop.
const STOP_MAX: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Admin {
    registry: Registry,
    ready: Arc<AtomicBool>,
}

/// Serves `registry` at `/metrics`, "ok" at `/livez`, and at `/readyz` 200 or 503 as `ready` says,
/// until `shutdown`; then answers that are under way have two seconds.
///
/// To have `/readyz` say 503 during a drain, cancel `shutdown` only after it.
///
/// # Errors
///
/// None so far: what fails on a connection ends the connection.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    ready: Arc<AtomicBool>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = BoundedListener {
        listener,
        open: Arc::default(),
        accepted: 0,
    };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get("ok\n"))
        .route("/readyz", get(readyz))
        .with_state(Admin { registry, ready });
    let stop = shutdown.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::select! {
        served = serving.into_future() => served,
        () = async { stop.cancelled().await; sleep(STOP_MAX).await } => Ok(()),
    }
}

/// In the text format, or as OpenMetrics for those who ask for it.
async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let families = admin.registry.gather();
    let accept = headers.get(header::ACCEPT);
    if accept
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(open_metrics::is_preferred)
    {
        let format = open_metrics::OPEN_METRICS_FORMAT;
        let text = open_metrics::encode(&families);
        return ([(header::CONTENT_TYPE, format)], text).into_response();
    }
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    match admin.ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    }
}

/// What closes each open connection, in the order in which they came.
type Open = Arc<Mutex<BTreeMap<u64, CancellationToken>>>;

/// Has no more connections at a time than [`CONNECTIONS_MAX`].
struct BoundedListener {
    listener: TcpListener,
    open: Open,
    accepted: u64,
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        self.accepted += 1;
        let number = self.accepted;
        let closed = CancellationToken::new();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(number, closed.clone());
        if open.len() > CONNECTIONS_MAX
            && let Some((_, oldest)) = open.pop_first()
        {
            oldest.cancel();
        }
        let stream = BoundedStream {
            stream,
            deadline: Box::pin(sleep(ANSWER_INTERVAL_MAX)),
            closed: Box::pin(closed.cancelled_owned()),
            number,
            open: self.open.clone(),
        };
        (stream, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing could be written to it for too long, whatever trickles in, or
/// when it has to make room.
///
/// axum has no limit for the time that a request may take to arrive.
struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    number: u64,
    open: Open,
}

impl Drop for BoundedStream {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.number);
    }
}

impl BoundedStream {
    fn check_deadline(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.closed.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn extend_deadline(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(_))) {
            self.deadline
                .as_mut()
                .reset(Instant::now() + ANSWER_INTERVAL_MAX);
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_deadline(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_deadline(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, octets);
        self.extend_deadline(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_deadline(context)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.extend_deadline(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::IntCounter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Served {
        address: SocketAddr,
        ready: Arc<AtomicBool>,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn serve_one_counter() -> Served {
        let registry = Registry::new();
        let counter = IntCounter::new("popgate_tests_total", "Tests.").expect("a valid name");
        counter.inc();
        registry.register(Box::new(counter)).expect("the only one");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let ready = Arc::new(AtomicBool::new(false));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(
            listener,
            registry,
            Arc::clone(&ready),
            shutdown.clone(),
        ));
        Served {
            address,
            ready,
            shutdown,
            task,
        }
    }

    /// Everything that comes back for `request` until the end of the connection.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("listening");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .await
            .expect("an orderly end");
        String::from_utf8(answer).expect("text")
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange(
            address,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
        .await
    }

    #[tokio::test]
    async fn answers_by_path() {
        let served = serve_one_counter().await;
        for (path, status, body) in [
            ("/livez", "200 OK", "ok\n"),
            ("/readyz", "503 Service Unavailable", "not ready\n"),
            ("/metrics", "200 OK", "popgate_tests_total 1\n"),
            ("/", "404 Not Found", ""),
        ] {
            let answer = get(served.address, path).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{path}: {answer}"
            );
            assert!(answer.ends_with(body), "{path}: {answer}");
        }
        served.ready.store(true, Ordering::Relaxed);
        assert!(
            get(served.address, "/readyz")
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
        served.shutdown.cancel();
        let ended = tokio::time::timeout(STOP_MAX, served.task)
            .await
            .expect("nothing is under way");
        assert!(matches!(ended, Ok(Ok(()))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_is_cut() {
        let served = serve_one_counter().await;
        let began = Instant::now();
        let answer = exchange(served.address, "GET /livez HTT").await;
        assert_eq!(answer, "");
        assert_eq!(began.elapsed().as_secs(), ANSWER_INTERVAL_MAX.as_secs());
    }
}
