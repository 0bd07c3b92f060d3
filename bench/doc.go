// Bench compares herd with its peers on one machine: both load the same file
// and take turns, and what counts is the median of the ratios of pairs. See
// README.md.
package main
