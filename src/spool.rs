//! [`Spool`]: a message on disk in a file that never has a name, so that nothing is left of it whatever
//! happens; [`SpoolSpace`]: how much all of them may take, and of that each [`SpoolShare`].

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

/// A share may be so many times what it leaves to others: three quarters of all, three quarters of the rest, and
/// so on. Whoever never gives anything back then leaves room for everybody else.
const SHARE_OF_LEFT: u64 = 3;

/// What all spools share: how many octets they may take together, and how many of them may be kept.
#[derive(Clone)]
pub struct SpoolSpace {
    octets_left: Arc<AtomicU64>,
    places_left: Arc<AtomicU64>,
    creations: Arc<Semaphore>,
}

impl SpoolSpace {
    /// So many octets, and so many spools that are kept.
    pub fn new(octets_max: u64, kept_max: u64) -> Self {
        Self {
            octets_left: Arc::new(AtomicU64::new(octets_max)),
            places_left: Arc::new(AtomicU64::new(kept_max)),
            creations: Arc::new(Semaphore::new(CREATIONS_MAX)),
        }
    }

    /// For one who has nothing of it yet.
    pub fn share(&self) -> SpoolShare {
        SpoolShare {
            octets: Taken::of(&self.octets_left),
            places: Taken::of(&self.places_left),
            creations: self.creations.clone(),
        }
    }
}

/// What one of several owners of spools has of the space.
#[derive(Clone)]
pub struct SpoolShare {
    octets: Taken,
    places: Taken,
    creations: Arc<Semaphore>,
}

/// How much of something one has, of which all have so much left.
#[derive(Clone)]
struct Taken {
    taken: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
}

impl Taken {
    fn of(left: &Arc<AtomicU64>) -> Self {
        Self {
            taken: Arc::default(),
            left: left.clone(),
        }
    }

    /// Whether there was so much, and enough is left then.
    fn take(&self, wanted: u64) -> bool {
        let less = |left: u64| left.checked_sub(wanted);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let Ok(before) = self.left.fetch_update(set, fetch, less) else {
            return false;
        };
        let taken = self.taken.fetch_add(wanted, Ordering::Relaxed) + wanted;
        let is_fair = taken <= (before - wanted).saturating_mul(SHARE_OF_LEFT);
        if !is_fair {
            self.give_back(wanted);
        }
        is_fair
    }

    fn give_back(&self, taken: u64) {
        self.taken.fetch_sub(taken, Ordering::Relaxed);
        self.left.fetch_add(taken, Ordering::Relaxed);
    }
}

/// Octets of one message, written once and read as often as needed.
pub struct Spool {
    file: File,
    octets: u64,
    has_nul: bool,
    buffer: Vec<u8>,
    is_kept: bool,
    share: SpoolShare,
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.share.octets.give_back(self.octets);
        self.share.places.give_back(self.is_kept.into());
    }
}

impl Spool {
    /// Creates an empty one in `folder`.
    ///
    /// # Errors
    /// When the folder is not there, or nothing can be written there within [`DISK_PATIENCE`].
    pub async fn create(folder: &Path, share: &SpoolShare) -> io::Result<Self> {
        let (folder, creations) = (folder.to_owned(), share.creations.clone());
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
        Ok(Self::of(file, share))
    }

    fn of(file: std::fs::File, share: &SpoolShare) -> Self {
        Self {
            file: File::from_std(file),
            octets: 0,
            has_nul: false,
            buffer: Vec::new(),
            is_kept: false,
            share: share.clone(),
        }
    }

    /// Adds octets.
    ///
    /// # Errors
    /// When the disk is full or takes nothing for [`DISK_PATIENCE`]; `QuotaExceeded` when all spools together, or
    /// those of this share, take as much as they may.
    pub async fn push(&mut self, octets: &[u8]) -> io::Result<()> {
        if !self.share.octets.take(octets.len() as u64) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.octets += octets.len() as u64;
        self.has_nul |= memchr::memchr(0, octets).is_some();
        in_time(self.file.write_all(octets)).await
    }

    /// Whether it may be kept from now on, as long as it takes, since there are not too many of those.
    pub fn keep(&mut self) -> bool {
        self.is_kept = self.is_kept || self.share.places.take(1);
        self.is_kept
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
        let share = SpoolSpace::new(200_000, 1).share();
        let created = Spool::create(folder.path(), &share).await;
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
        assert!(Spool::create(&nowhere, &share).await.is_err());
    }

    #[tokio::test]
    async fn all_of_them_share_their_space() {
        let folder = tempfile::tempdir().expect("a folder");
        let share = SpoolSpace::new(10, 4).share();
        let create = || async { Spool::create(folder.path(), &share).await.expect("created") };
        let (mut first, mut second) = (create().await, create().await);
        first.push(b"12345").await.expect("room");
        let error = second.push(b"123456").await.expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
        second.push(b"12").await.expect("room");
        drop((first, second));
        let mut third = create().await;
        third.push(b"1234567").await.expect("room again");
    }

    #[tokio::test]
    async fn who_gives_nothing_back_leaves_room_for_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = SpoolSpace::new(1000, 100);
        let mut kept = Vec::new();
        let mut fill = async |share: &SpoolShare| {
            let before = kept.len();
            loop {
                let created = Spool::create(folder.path(), share).await;
                let mut spool = created.expect("created");
                if spool.push(b"12345").await.is_err() || !spool.keep() {
                    return kept.len() - before;
                }
                kept.push(spool);
            }
        };
        let (hanging, other) = (space.share(), space.share());
        assert_eq!(fill(&hanging).await, 75, "places are what is short");
        assert_eq!(fill(&hanging).await, 0);
        assert_eq!(fill(&other).await, 18, "three quarters of the rest");
        drop(kept);
        let mut large = Spool::create(folder.path(), &hanging)
            .await
            .expect("created");
        assert!(large.push(&[0; 751]).await.is_err(), "too much of all");
        large.push(&[0; 750]).await.expect("given back");
        let mut small = Spool::create(folder.path(), &other).await.expect("created");
        small.push(&[0; 187]).await.expect("room is left");
        assert!(large.keep() && large.keep() && small.keep());
        drop((large, small));
        let left =
            [&space.octets_left, &space.places_left].map(|left| left.load(Ordering::Relaxed));
        assert_eq!(left, [1000, 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_hangs_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let share = SpoolSpace::new(u64::MAX, 1).share();
        let threads = u32::try_from(CREATIONS_MAX).expect("few");
        let hanging = share.creations.acquire_many(threads).await.expect("open");
        let created = Spool::create(folder.path(), &share).await.map(drop);
        let error = created.expect_err("all threads hang");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(hanging);
        // A pipe that nobody reads takes its capacity, and nothing more.
        let (reader, writer) = io::pipe().expect("a pipe");
        let file = std::os::fd::OwnedFd::from(writer).into();
        let mut spool = Spool::of(file, &share);
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
