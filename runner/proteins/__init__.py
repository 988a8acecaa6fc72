"""Proteins as data: their table, their residues as tokens, their motifs, and fragments of long ones."""
