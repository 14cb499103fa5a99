//! PROXY headers: whatever comes is one, or is refused, without a panic; and what is read behind a header is
//! what was sent behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use popgate::proxy_protocol;

fuzz_target!(|octets: &[u8]| {
    let mut unread = octets;
    let read = {
        let mut reading = std::pin::pin!(proxy_protocol::read(&mut unread));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match reading.as_mut().poll(&mut context) {
            std::task::Poll::Ready(read) => read,
            std::task::Poll::Pending => panic!("a slice is never waited for"),
        }
    };
    if let Ok(Some(source)) = read {
        let header = &octets[..octets.len() - unread.len()];
        assert_eq!(proxy_protocol::parse(header), Some(source));
    }
});
