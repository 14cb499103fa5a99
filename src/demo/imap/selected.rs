//! The commands of the selected state (RFC 3501 §6.4, RFC 4315, RFC 6851).

use tokio::io::{AsyncRead, AsyncWrite};

use super::Reply;
use super::command::{Access, FetchItem, Numbering, SearchReturn, Selected};
use super::connection::{Connection, Hangup};
use super::fetch;
use super::search::{Last, SearchKey};
use super::sequence_set::{SequenceSet, write_compact};
use super::view::{NoSuchNumber, Numbered, View};
use crate::demo::mailbox::{Flag, FlagChange, SampleMailbox, SampleStore};

/// FETCH sends what it has when it is this much, so that memory holds one message at a time.
const OUTPUT_OCTETS_HELD: usize = 64 * 1024;

/// Whether the mailbox is still selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    StillSelected,
    MailboxLeft,
}

/// A client with a mailbox.
pub(super) struct Session<'a, S> {
    pub(super) view: &'a mut View,
    pub(super) store: &'a SampleStore,
    pub(super) connection: &'a mut Connection<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    pub(super) async fn execute(
        mut self,
        tag: &str,
        command: Selected,
    ) -> Result<(Reply, After), Hangup> {
        let reply = match command {
            Selected::Check => Reply::completed("CHECK"),
            Selected::Unselect => return Ok((Reply::completed("UNSELECT"), After::MailboxLeft)),
            Selected::Close => {
                if self.view.access == Access::ReadWrite {
                    self.store
                        .lock()
                        .get_mut(self.view.mailbox)
                        .expunge(|_| true);
                }
                return Ok((Reply::completed("CLOSE"), After::MailboxLeft));
            }
            Selected::Search {
                known_charset: false,
                ..
            } => Reply::No("[BADCHARSET (US-ASCII UTF-8)] Unknown charset".to_owned()),
            Selected::Search {
                numbering,
                returns,
                key,
                ..
            } => self.search(tag, numbering, returns.as_deref(), &key),
            Selected::Fetch {
                numbering,
                set,
                items,
            } => self.fetch(numbering, &set, items).await?,
            Selected::Copy {
                numbering,
                set,
                mailbox,
            } => self.copy(numbering, &set, &mailbox),
            Selected::Expunge(_) | Selected::Store { .. } | Selected::Move { .. }
                if self.view.access == Access::ReadOnly =>
            {
                Reply::No("[READ-ONLY] The mailbox was opened by EXAMINE".to_owned())
            }
            Selected::Expunge(set) => self.expunge(set.as_ref()),
            Selected::Store {
                numbering,
                set,
                change,
                silent,
            } => self.store_flags(numbering, &set, &change, silent),
            Selected::Move {
                numbering,
                set,
                mailbox,
            } => self.relocate(numbering, &set, &mailbox),
        };
        Ok((reply, After::StillSelected))
    }

    /// What is gone is announced as to everybody else who has the mailbox selected.
    fn expunge(&mut self, set: Option<&SequenceSet>) -> Reply {
        let wanted = set.map(|set| set.resolve(self.view.last(Numbering::Uids)));
        let mut store = self.store.lock();
        let mailbox = store.get_mut(self.view.mailbox);
        mailbox.expunge(|uid| wanted.as_ref().is_none_or(|set| set.contains(uid)));
        Reply::completed("EXPUNGE")
    }

    fn search(
        &mut self,
        tag: &str,
        numbering: Numbering,
        returns: Option<&[SearchReturn]>,
        key: &SearchKey,
    ) -> Reply {
        let last = Last {
            number: self.view.last(Numbering::SequenceNumbers),
            uid: self.view.last(Numbering::Uids),
        };
        if key.exceeds(last.number) {
            return NoSuchNumber.into();
        }
        let store = self.store.lock();
        let mailbox = store.get(self.view.mailbox);
        let wanted = |it: &Numbered| {
            let message = mailbox.message(it.uid);
            message.is_some_and(|message| key.matches(message, *it, last))
        };
        let found = self.view.all().filter(wanted).map(|it| match numbering {
            Numbering::SequenceNumbers => it.number,
            Numbering::Uids => it.uid,
        });
        let found: Vec<u32> = found.collect();
        let response = match returns {
            None => found
                .iter()
                .fold("SEARCH".to_owned(), |text, it| format!("{text} {it}")),
            Some(returns) => extended_search(tag, numbering, returns, &found),
        };
        self.connection.untagged(&response);
        Reply::completed("SEARCH")
    }

    async fn fetch(
        &mut self,
        numbering: Numbering,
        set: &SequenceSet,
        mut items: Vec<FetchItem>,
    ) -> Result<Reply, Hangup> {
        let messages = match self.view.messages(set, numbering) {
            Ok(messages) => messages,
            Err(error) => return Ok(error.into()),
        };
        // RFC 3501 §6.4.8: UID FETCH always shows the UID.
        if numbering == Numbering::Uids && !items.contains(&FetchItem::Uid) {
            items.insert(0, FetchItem::Uid);
        }
        let mut missing = false;
        for message in messages {
            missing |= !self.fetch_one(message, &items);
            if self.connection.output.len() > OUTPUT_OCTETS_HELD {
                self.connection.flush().await?;
            }
        }
        Ok(match (missing, numbering) {
            // RFC 2180 §4.1.2; a UID that there is not is no error.
            (true, Numbering::SequenceNumbers) => {
                Reply::No("[EXPUNGEISSUED] Some of these messages are gone".to_owned())
            }
            _ => Reply::completed("FETCH"),
        })
    }

    /// Whether the message was still there.
    fn fetch_one(&mut self, at: Numbered, items: &[FetchItem]) -> bool {
        let mut store = self.store.lock();
        let mailbox = store.get_mut(self.view.mailbox);
        let sets_seen = |it: &FetchItem| {
            matches!(
                it,
                FetchItem::Body {
                    sets_seen: true,
                    ..
                }
            )
        };
        if self.view.access == Access::ReadWrite && items.iter().any(sets_seen) {
            // A message with too many flags to be seen is shown nevertheless.
            let _ = mailbox.change_flags(at.uid, &FlagChange::Add(vec![Flag::seen()]));
        }
        let Some(message) = mailbox.message(at.uid) else {
            return false;
        };
        let mut items = items.to_vec();
        if !self.view.knows_flags(message) && !items.contains(&FetchItem::Flags) {
            items.push(FetchItem::Flags);
        }
        self.view.flags_told(message);
        fetch::write(&mut self.connection.output, at.number, message, &items);
        true
    }

    fn store_flags(
        &mut self,
        numbering: Numbering,
        set: &SequenceSet,
        change: &FlagChange,
        silent: bool,
    ) -> Reply {
        let messages = match self.view.messages(set, numbering) {
            Ok(messages) => messages,
            Err(error) => return error.into(),
        };
        let mut store = self.store.lock();
        let mailbox = store.get_mut(self.view.mailbox);
        let mut refused = None;
        for at in messages {
            let news = mailbox
                .message(at.uid)
                .is_some_and(|it| !self.view.knows_flags(it));
            if let Err(refusal) = mailbox.change_flags(at.uid, change) {
                refused = Some(refusal);
                continue;
            }
            let Some(message) = mailbox.message(at.uid) else {
                continue;
            };
            // .SILENT keeps quiet about what the client did, not about what others did before.
            if !silent || news {
                let items: &[FetchItem] = match numbering {
                    Numbering::Uids => &[FetchItem::Uid, FetchItem::Flags],
                    Numbering::SequenceNumbers => &[FetchItem::Flags],
                };
                fetch::write(&mut self.connection.output, at.number, message, items);
            }
            self.view.flags_told(message);
        }
        refused.map_or_else(|| Reply::completed("STORE"), Reply::refused)
    }

    fn copy(&mut self, numbering: Numbering, set: &SequenceSet, name: &str) -> Reply {
        let uids = match self.uids(numbering, set) {
            Ok(uids) => uids,
            Err(error) => return error.into(),
        };
        let mut store = self.store.lock();
        let target = match store.find(name) {
            Ok(target) => target,
            Err(refusal) => return Reply::refused_target(refusal),
        };
        match store.copy(self.view.mailbox, &uids, target) {
            Ok(pairs) if pairs.is_empty() => Reply::completed("COPY"),
            Ok(pairs) => {
                let code = copy_uid(store.get(target), &pairs);
                Reply::Ok(format!("{code} COPY completed"))
            }
            Err(refusal) => Reply::refused(refusal),
        }
    }

    /// MOVE: COPYUID comes before the EXPUNGEs (RFC 6851 §4.3), which are announced as always.
    fn relocate(&mut self, numbering: Numbering, set: &SequenceSet, name: &str) -> Reply {
        let uids = match self.uids(numbering, set) {
            Ok(uids) => uids,
            Err(error) => return error.into(),
        };
        let mut store = self.store.lock();
        let target = match store.find(name) {
            Ok(target) => target,
            Err(refusal) => return Reply::refused_target(refusal),
        };
        match store.relocate(self.view.mailbox, &uids, target) {
            Ok(pairs) if pairs.is_empty() => {}
            Ok(pairs) => {
                let code = copy_uid(store.get(target), &pairs);
                self.connection.untagged(&format!("OK {code} Moved"));
            }
            Err(refusal) => return Reply::refused(refusal),
        }
        Reply::completed("MOVE")
    }

    fn uids(&self, numbering: Numbering, set: &SequenceSet) -> Result<Vec<u32>, NoSuchNumber> {
        let messages = self.view.messages(set, numbering)?;
        Ok(messages.into_iter().map(|it| it.uid).collect())
    }
}

/// `esearch-response` (RFC 4731); without options it is ALL.
fn extended_search(
    tag: &str,
    numbering: Numbering,
    returns: &[SearchReturn],
    found: &[u32],
) -> String {
    let uid = match numbering {
        Numbering::Uids => " UID",
        Numbering::SequenceNumbers => "",
    };
    let wanted = |it: SearchReturn| match returns {
        [] => it == SearchReturn::All,
        returns => returns.contains(&it),
    };
    let mut response = format!("ESEARCH (TAG \"{tag}\"){uid}");
    if let (Some(first), Some(last)) = (found.first(), found.last()) {
        if wanted(SearchReturn::Min) {
            response += &format!(" MIN {first}");
        }
        if wanted(SearchReturn::Max) {
            response += &format!(" MAX {last}");
        }
        if wanted(SearchReturn::All) {
            response += &format!(" ALL {}", write_compact(found.iter().copied()));
        }
    }
    if wanted(SearchReturn::Count) {
        response += &format!(" COUNT {}", found.len());
    }
    response
}

/// `resp-code-copy` (RFC 4315 §3).
fn copy_uid(target: &SampleMailbox, pairs: &[(u32, u32)]) -> String {
    let old = write_compact(pairs.iter().map(|pair| pair.0));
    let new = write_compact(pairs.iter().map(|pair| pair.1));
    format!("[COPYUID {} {old} {new}]", target.uid_validity())
}
