// How tests choose what the scan otherwise chooses by the shape and the device.
#pragma once

namespace adder::cuda {

// Chunks of a segment of the split over L; 0: by the rule; -1: never split.
int& forced_segment_chunks();
// States that a lane of the forward scan holds, 4 or 8; 0: by the rule.
int& forced_states_per_lane();

}  // namespace adder::cuda
