//! [`Spool`]: a message on disk in a file without a name, which is gone whatever happens.

use std::io::{self, SeekFrom};
use std::path::Path;

use tokio::fs::{File, OpenOptions, remove_file};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// Octets read at once.
const CHUNK_OCTETS: usize = 32 * 1024;

/// Octets of one message, written once and read as often as needed.
pub struct Spool {
    file: File,
    octets: u64,
    buffer: Vec<u8>,
}

impl Spool {
    /// Creates an empty one in `folder`; `name` must be nobody else's there, and is nobody's any more
    /// when this returns.
    ///
    /// # Errors
    /// When the folder is not there or nothing can be written there.
    pub async fn create(folder: &Path, name: &str) -> io::Result<Self> {
        let path = folder.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        let file = options.open(&path).await?;
        remove_file(&path).await?;
        Ok(Self {
            file,
            octets: 0,
            buffer: Vec::new(),
        })
    }

    /// Adds octets.
    ///
    /// # Errors
    /// When the disk is full.
    pub async fn push(&mut self, octets: &[u8]) -> io::Result<()> {
        self.file.write_all(octets).await?;
        self.octets += octets.len() as u64;
        Ok(())
    }

    /// How many octets there are.
    pub fn octets(&self) -> u64 {
        self.octets
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
        let mut spool = Spool::create(folder.path(), "a").await.expect("created");
        let message: Vec<u8> = (0..100_000u32).map(|number| (number % 251) as u8).collect();
        for chunk in message.chunks(999) {
            spool.push(chunk).await.expect("written");
        }
        assert_eq!(spool.octets(), 100_000);
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
        assert!(
            Spool::create(&folder.path().join("none"), "a")
                .await
                .is_err()
        );
    }
}
