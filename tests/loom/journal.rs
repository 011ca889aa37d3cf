//! Transactions: all of the words change or none, whoever is killed in the middle of one.

use std::sync::Arc;

use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use multigil::journal::{Journal, Place};
use multigil::layout::PeerId;
use multigil::model::{AtomicU64, OwnedWord, Part};

use super::{check, check_deaths, die_at, twin};

/// A region of two words that are always changed together, and one that only whoever has the lock touches.
#[derive(Default)]
struct Region {
    journal: Journal,
    words: [AtomicU64; 2],
    alone: OwnedWord,
    /// Peer 1 has been killed.
    is_dead: Arc<AtomicBool>,
}

impl Place for Region {
    fn offset(&self, word: &AtomicU64) -> Option<u64> {
        self.words.iter().position(|known| core::ptr::eq(known, word)).map(|place| place as u64)
    }

    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        self.words.get(offset as usize)
    }

    fn cannot_hold(&self, peer: PeerId) -> bool {
        peer.get() == 1 && self.is_dead.load(Ordering::Acquire)
    }
}

impl Region {
    /// Adds one to both words; what they were.
    fn add(&self, peer: u16) -> u64 {
        let added = self.journal.transact(self, PeerId::new(peer).unwrap(), |transaction| {
            let seen = [0, 1].map(|word| self.words[word].load(Ordering::Relaxed));
            assert_eq!(seen[0], seen[1], "half a transaction");
            self.alone.write(self.alone.read() + 1);
            self.words.iter().for_each(|word| transaction.set(word, seen[0] + 1));
            Some(seen[0])
        });
        added.unwrap()
    }

    fn now(&self) -> [u64; 2] {
        [0, 1].map(|word| self.words[word].load(Ordering::Relaxed))
    }
}

/// Two at a time: one after the other.
fn one_after_the_other() {
    let region = Arc::new(Region::default());
    let other = region.clone();
    let adder = thread::spawn(move || other.add(2));
    region.add(1);
    adder.join().unwrap();
    assert_eq!(region.now(), [2, 2]);
}

#[test]
fn one_after_the_other_holds() {
    check(3, one_after_the_other);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn one_after_the_other_fails_without_journal_taken() {
    twin(3, Part::JournalTaken, one_after_the_other);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn one_after_the_other_fails_without_journal_given_back() {
    twin(3, Part::JournalGivenBack, one_after_the_other);
}

/// One is killed at some point, another one comes meanwhile: it takes the lock over, and finds all done or nothing.
fn killed(point: u32) -> bool {
    let region = Arc::new(Region::default());
    let other = region.clone();
    let adder = thread::spawn(move || other.add(2));
    let is_killed = die_at(point, || region.add(1)).is_none();
    if is_killed {
        region.is_dead.store(true, Ordering::Release);
    }
    adder.join().unwrap();
    let added = region.add(2); // what nobody has come by to finish is finished now
    assert!(added == 2 || (is_killed && added == 1), "{added}");
    is_killed
}

#[test]
fn killed_holds() {
    check_deaths(2, killed);
}

#[test]
#[should_panic(expected = "half a transaction")]
fn killed_fails_without_journal_redone() {
    twin(2, Part::JournalRedone, || {
        killed(2);
    });
}

#[test]
#[should_panic(expected = "half a transaction")]
fn killed_fails_without_journal_committed() {
    twin(2, Part::JournalCommitted, || {
        killed(2);
    });
}
