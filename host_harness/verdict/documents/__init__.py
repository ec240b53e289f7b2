# SPDX-License-Identifier: Apache-2.0
"""The documents of a run's folder: their JSON Schemas, their versions, and a bounded reader."""
