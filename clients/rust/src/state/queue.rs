//! A bounded queue between the connection and one reader of it.
//!
//! `push` never waits. A full queue refuses the item, and its owner decides which item the reader
//! gets instead.
//!
//! Imports nothing of the crate. Imported by `state`.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// The items that wait for one reader.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: VecDeque<T>,
    items_max: usize,
    is_closed: bool,
    waker: Option<Waker>,
}

impl<T> Queue<T> {
    pub(crate) fn new(items_max: usize) -> Queue<T> {
        Queue { items: VecDeque::new(), items_max: items_max.max(1), is_closed: false, waker: None }
    }

    /// Adds an item, unless the queue is full.
    pub(crate) fn push(&mut self, item: T) -> Result<(), T> {
        if self.items.len() >= self.items_max {
            return Err(item);
        }
        self.items.push_back(item);
        self.wake();
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// No item comes after the present ones.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        self.wake();
    }

    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next item, or none after the last; otherwise the reader is woken later.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if self.is_closed => Poll::Ready(None),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
