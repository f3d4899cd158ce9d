"""Proofs of the papers' effects: claims, worlds, and the protocol that decides between shown, not shown, undecided and case invalid."""
