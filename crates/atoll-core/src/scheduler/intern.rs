//! Small numbers for names that are compared often. A number is free again once nobody uses it.

use std::hash::Hash;

use rustc_hash::FxHashMap;

#[derive(Debug)]
pub(super) struct Interner<T> {
    numbers: FxHashMap<T, u32>,
    names: Vec<Option<T>>,
    uses: Vec<u32>,
    free: Vec<u32>,
}

impl<T: Hash + Eq + Clone> Interner<T> {
    pub(super) fn new() -> Self {
        Self {
            numbers: FxHashMap::default(),
            names: Vec::new(),
            uses: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The number of a name, if somebody uses it.
    pub(super) fn get<Q>(&self, name: &Q) -> Option<u32>
    where
        T: std::borrow::Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.numbers.get(name).copied()
    }

    /// The number of a name, used once more.
    pub(super) fn retain(&mut self, name: &T) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            self.uses[*number as usize] += 1;
            return *number;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.names.push(None);
            self.uses.push(0);
            u32::try_from(self.names.len() - 1).unwrap_or(u32::MAX)
        });
        self.names[number as usize] = Some(name.clone());
        self.uses[number as usize] = 1;
        self.numbers.insert(name.clone(), number);
        number
    }

    /// How many names are in use.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The numbers in use.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        let used = (0..).zip(&self.uses).filter(|(_, uses)| **uses > 0);
        used.map(|(number, _)| number)
    }

    /// Uses a number once more.
    pub(super) fn reuse(&mut self, number: u32) {
        self.uses[number as usize] += 1;
    }

    /// Uses a number once less.
    pub(super) fn release(&mut self, number: u32) {
        let uses = &mut self.uses[number as usize];
        *uses = uses.saturating_sub(1);
        if *uses == 0
            && let Some(name) = self.names[number as usize].take()
        {
            self.numbers.remove(&name);
            self.free.push(number);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let entry = size_of::<T>() * 2 + 4 * 3;
        self.names.capacity() * entry
    }
}
