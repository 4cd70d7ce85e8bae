"""What is stored: the contract in `documents`, the rules that all backends share, and a package for each backend."""
