//! [`Spool`]: a message on disk in a file that never has a name, so that nothing is left of it whatever
//! happens; [`SpoolSpace`]: how much all of them may take.

use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// Octets read at once.
const CHUNK_OCTETS: usize = 32 * 1024;

/// The octets that all spools together may take.
#[derive(Clone)]
pub struct SpoolSpace(Arc<AtomicU64>);

impl SpoolSpace {
    /// So many of them.
    pub fn new(octets_max: u64) -> Self {
        Self(Arc::new(AtomicU64::new(octets_max)))
    }

    fn take(&self, octets: u64) -> bool {
        let left = |left: u64| left.checked_sub(octets);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.0.fetch_update(set, fetch, left).is_ok()
    }
}

/// Octets of one message, written once and read as often as needed.
pub struct Spool {
    file: File,
    octets: u64,
    has_nul: bool,
    buffer: Vec<u8>,
    space: SpoolSpace,
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.space.0.fetch_add(self.octets, Ordering::Relaxed);
    }
}

impl Spool {
    /// Creates an empty one in `folder`.
    ///
    /// # Errors
    /// When the folder is not there or nothing can be written there.
    pub async fn create(folder: &Path, space: &SpoolSpace) -> io::Result<Self> {
        let folder = folder.to_owned();
        let created = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await;
        Ok(Self {
            file: File::from_std(created.map_err(io::Error::other)??),
            octets: 0,
            has_nul: false,
            buffer: Vec::new(),
            space: space.clone(),
        })
    }

    /// Adds octets.
    ///
    /// # Errors
    /// When the disk is full, or all spools together take as much as they may.
    pub async fn push(&mut self, octets: &[u8]) -> io::Result<()> {
        if !self.space.take(octets.len() as u64) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.octets += octets.len() as u64;
        self.has_nul |= memchr::memchr(0, octets).is_some();
        self.file.write_all(octets).await
    }

    /// How many octets there are.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Whether one of them is NUL.
    pub fn has_nul(&self) -> bool {
        self.has_nul
    }

    /// From now on, [`Self::chunk`] reads from the first octet.
    ///
    /// # Errors
    /// When what was added could not be written after all.
    pub async fn rewind(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        self.file.seek(SeekFrom::Start(0)).await?;
        Ok(())
    }

    /// The next octets; none behind the last.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn chunk(&mut self) -> io::Result<&[u8]> {
        self.buffer.resize(CHUNK_OCTETS, 0);
        let octets = self.file.read(&mut self.buffer).await?;
        Ok(&self.buffer[..octets])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_read_and_nothing_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = SpoolSpace::new(100_000);
        let created = Spool::create(folder.path(), &space).await;
        let mut spool = created.expect("created");
        let message: Vec<u8> = (0..100_000u32).map(|number| (number % 251) as u8).collect();
        for chunk in message.chunks(999) {
            spool.push(chunk).await.expect("written");
        }
        assert_eq!(spool.octets(), 100_000);
        assert!(spool.has_nul());
        let left = std::fs::read_dir(folder.path()).expect("readable").count();
        assert_eq!(left, 0, "files with a name");
        for _ in 0..2 {
            spool.rewind().await.expect("rewound");
            let mut read = Vec::new();
            while let chunk @ [_, ..] = spool.chunk().await.expect("read") {
                read.extend_from_slice(chunk);
            }
            assert!(read == message);
        }
        let nowhere = folder.path().join("none");
        assert!(Spool::create(&nowhere, &space).await.is_err());
    }

    #[tokio::test]
    async fn all_of_them_share_their_space() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = SpoolSpace::new(10);
        let mut first = Spool::create(folder.path(), &space).await.expect("created");
        let mut second = Spool::create(folder.path(), &space).await.expect("created");
        first.push(b"1234567").await.expect("room");
        let error = second.push(b"1234").await.expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        second.push(b"123").await.expect("room");
        drop((first, second));
        let mut third = Spool::create(folder.path(), &space).await.expect("created");
        third.push(b"1234567890").await.expect("room again");
    }
}
