"""Studies: architectures x training x datasets x attacks x seeds in one file, run to the end whatever interrupts it."""
