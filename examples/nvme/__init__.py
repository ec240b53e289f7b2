# SPDX-License-Identifier: Apache-2.0
"""An NVMe controller, after NVM Express Base 1.4; docs/nvme.md explains it."""
