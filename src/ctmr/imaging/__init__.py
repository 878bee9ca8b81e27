"""What a scan is: arrays with a unit on a grid."""
