//! [`Spool`]: a message on disk in a file that never has a name, so that nothing is left of it whatever
//! happens; [`SpoolSpace`]: how much all of them may take.

use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Octets read at once.
const CHUNK_OCTETS: usize = 32 * 1024;

/// How long the disk may take for anything: a file system of the network that has lost its server takes for ever.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// Files that are being created. Each of them has a thread, which a disk that hangs does not give back.
const CREATIONS_MAX: usize = 16;

/// What all spools share: how many octets they may take together.
#[derive(Clone)]
pub struct SpoolSpace {
    octets_left: Arc<AtomicU64>,
    creations: Arc<Semaphore>,
}

impl SpoolSpace {
    /// So many octets.
    pub fn new(octets_max: u64) -> Self {
        Self {
            octets_left: Arc::new(AtomicU64::new(octets_max)),
            creations: Arc::new(Semaphore::new(CREATIONS_MAX)),
        }
    }

    fn take(&self, octets: u64) -> bool {
        let left = |left: u64| left.checked_sub(octets);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.octets_left.fetch_update(set, fetch, left).is_ok()
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
        let left = &self.space.octets_left;
        left.fetch_add(self.octets, Ordering::Relaxed);
    }
}

impl Spool {
    /// Creates an empty one in `folder`.
    ///
    /// # Errors
    /// When the folder is not there, or nothing can be written there within [`DISK_PATIENCE`].
    pub async fn create(folder: &Path, space: &SpoolSpace) -> io::Result<Self> {
        let (folder, creations) = (folder.to_owned(), space.creations.clone());
        let file = in_time(async {
            let turn = creations.acquire_owned().await.map_err(io::Error::other)?;
            let creation = tokio::task::spawn_blocking(move || {
                let created = tempfile::tempfile_in(folder);
                // Not earlier, even if nobody waits for it any more.
                drop(turn);
                created
            });
            creation.await.map_err(io::Error::other)?
        })
        .await?;
        Ok(Self::of(file, space))
    }

    fn of(file: std::fs::File, space: &SpoolSpace) -> Self {
        Self {
            file: File::from_std(file),
            octets: 0,
            has_nul: false,
            buffer: Vec::new(),
            space: space.clone(),
        }
    }

    /// Adds octets.
    ///
    /// # Errors
    /// When the disk is full or takes nothing for [`DISK_PATIENCE`], or all spools together take as much as they
    /// may.
    pub async fn push(&mut self, octets: &[u8]) -> io::Result<()> {
        if !self.space.take(octets.len() as u64) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.octets += octets.len() as u64;
        self.has_nul |= memchr::memchr(0, octets).is_some();
        in_time(self.file.write_all(octets)).await
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
        in_time(self.file.flush()).await?;
        in_time(self.file.seek(SeekFrom::Start(0))).await?;
        Ok(())
    }

    /// The next octets; none behind the last.
    ///
    /// # Errors
    /// When the disk fails, or says nothing for [`DISK_PATIENCE`].
    pub async fn chunk(&mut self) -> io::Result<&[u8]> {
        self.buffer.resize(CHUNK_OCTETS, 0);
        let octets = in_time(self.file.read(&mut self.buffer)).await?;
        Ok(&self.buffer[..octets])
    }
}

/// What the disk does, unless it takes longer than [`DISK_PATIENCE`].
async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(DISK_PATIENCE, work).await.unwrap_or_else(|_| {
        let seconds = DISK_PATIENCE.as_secs();
        let cause = format!("the disk has not answered for {seconds} s");
        Err(io::Error::new(io::ErrorKind::TimedOut, cause))
    })
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

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = SpoolSpace::new(u64::MAX);
        let threads = u32::try_from(CREATIONS_MAX).expect("few");
        let hanging = space.creations.acquire_many(threads).await.expect("open");
        let created = Spool::create(folder.path(), &space).await.map(drop);
        let error = created.expect_err("all threads hang");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(hanging);
        // A pipe that nobody reads takes its capacity, and nothing more.
        let (reader, writer) = io::pipe().expect("a pipe");
        let file = std::os::fd::OwnedFd::from(writer).into();
        let mut spool = Spool::of(file, &space);
        let pushing = tokio::spawn(async move {
            loop {
                if let Err(error) = spool.push(&[0; 1 << 20]).await {
                    return error.kind();
                }
            }
        });
        // Time stands still while a thread works.
        while !pushing.is_finished() {
            tokio::time::advance(DISK_PATIENCE / 4).await;
        }
        assert_eq!(pushing.await.expect("no panic"), io::ErrorKind::TimedOut);
        // The thread ends.
        drop(reader);
    }
}
