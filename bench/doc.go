// Bench compares herd with its peers on one machine: both work on the same files
// in turns, and what counts is the median of the ratios of pairs. See README.md.
package main
