"""The run side: load an artifact or an export, predict, and write what was predicted. No torch unless asked for."""
