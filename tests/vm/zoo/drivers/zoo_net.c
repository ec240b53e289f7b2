// SPDX-License-Identifier: GPL-2.0-only
/*
 * A network interface whose frames come back. Its receive buffers are pages of a page_pool: they
 * stay mapped while they are used again and again, and only what the device may have written is
 * given back to it.
 */
#include <linux/etherdevice.h>
#include <linux/netdevice.h>

#include "ring_compat_net.h"
#include "ring_engine.h"

#define SLOTS		64
#define RING_BYTES	(SLOTS * sizeof(struct ring_descriptor))
#define HEADROOM	(NET_SKB_PAD + NET_IP_ALIGN)
#define RX_LENGTH	(SKB_WITH_OVERHEAD(PAGE_SIZE) - HEADROOM)

struct tx_slot {
	struct sk_buff *skb;
	dma_addr_t dma;
};

struct zoo_net {
	struct ring_engine engine;
	struct net_device *netdev;
	struct napi_struct napi;
	struct ring_descriptor *tx, *rx;
	dma_addr_t tx_dma, rx_dma;
	unsigned int tx_next, tx_clean, rx_next;
	struct tx_slot tx_slots[SLOTS];
	struct page *rx_pages[SLOTS];
	struct page_pool *pool;
};

static void give(struct ring_descriptor *descriptor, dma_addr_t dma, size_t length, u32 flags)
{
	descriptor->address = cpu_to_le64(dma);
	descriptor->length = cpu_to_le32(length);
	dma_wmb();
	WRITE_ONCE(descriptor->flags, cpu_to_le32(flags | RING_OWN));
}

static bool devices_own(const struct ring_descriptor *descriptor, u32 *flags)
{
	*flags = le32_to_cpu(READ_ONCE(descriptor->flags));
	dma_rmb();
	return *flags & RING_OWN;
}

static void give_page(struct zoo_net *zoo, unsigned int slot, struct page *page)
{
	zoo->rx_pages[slot] = page;
	give(&zoo->rx[slot], page_pool_get_dma_addr(page) + HEADROOM, RX_LENGTH, 0);
}

static netdev_tx_t zoo_net_xmit(struct sk_buff *skb, struct net_device *netdev)
{
	struct zoo_net *zoo = netdev_priv(netdev);
	unsigned int slot = zoo->tx_next, next = (slot + 1) % SLOTS;
	struct device *dev = zoo->engine.dev;
	dma_addr_t dma;

	if (skb_put_padto(skb, ETH_ZLEN))
		return NETDEV_TX_OK;
	dma = dma_map_single(dev, skb->data, skb->len, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, dma)) {
		netdev->stats.tx_dropped++;
		dev_kfree_skb_any(skb);
		return NETDEV_TX_OK;
	}
	zoo->tx_slots[slot] = (struct tx_slot){ skb, dma };
	give(&zoo->tx[slot], dma, skb->len, RING_LAST);
	WRITE_ONCE(zoo->tx_next, next);
	if ((next + 1) % SLOTS == READ_ONCE(zoo->tx_clean)) {
		netif_stop_queue(netdev);
		smp_mb();	/* pairs with the one in clean_tx() */
		if ((next + 1) % SLOTS != READ_ONCE(zoo->tx_clean))
			netif_start_queue(netdev);
	}
	ring_write(zoo->engine.regs, RING_TX_TAIL, next);
	return NETDEV_TX_OK;
}

static void free_tx_slot(struct zoo_net *zoo, unsigned int slot, int budget)
{
	struct tx_slot *each = &zoo->tx_slots[slot];

	dma_unmap_single(zoo->engine.dev, each->dma, each->skb->len, DMA_TO_DEVICE);
	napi_consume_skb(each->skb, budget);
	each->skb = NULL;
}

static void clean_tx(struct zoo_net *zoo, int budget)
{
	struct net_device *netdev = zoo->netdev;
	unsigned int slot = zoo->tx_clean;
	u32 flags;

	while (slot != READ_ONCE(zoo->tx_next) && !devices_own(&zoo->tx[slot], &flags)) {
		if (flags & RING_ERROR)
			netdev->stats.tx_errors++;
		else
			netdev->stats.tx_packets++;
		netdev->stats.tx_bytes += zoo->tx_slots[slot].skb->len;
		free_tx_slot(zoo, slot, budget);
		slot = (slot + 1) % SLOTS;
	}
	WRITE_ONCE(zoo->tx_clean, slot);
	smp_mb();	/* pairs with the one in zoo_net_xmit() */
	if (netif_queue_stopped(netdev) && (zoo->tx_next + 1) % SLOTS != slot)
		netif_wake_queue(netdev);
}

static void pass_on(struct zoo_net *zoo, struct page *page, unsigned int length)
{
	struct net_device *netdev = zoo->netdev;
	struct sk_buff *skb;

	dma_sync_single_for_cpu(zoo->engine.dev, page_pool_get_dma_addr(page) + HEADROOM, length,
				DMA_FROM_DEVICE);
	skb = napi_build_skb(page_address(page), PAGE_SIZE);
	if (!skb) {
		netdev->stats.rx_dropped++;
		page_pool_recycle_direct(zoo->pool, page);
		return;
	}
	skb_mark_for_recycle(skb);
	skb_reserve(skb, HEADROOM);
	skb_put(skb, length);
	skb->protocol = eth_type_trans(skb, netdev);
	netdev->stats.rx_packets++;
	netdev->stats.rx_bytes += length;
	napi_gro_receive(&zoo->napi, skb);
}

static int receive(struct zoo_net *zoo, int budget)
{
	int done;

	for (done = 0; done < budget; done++) {
		unsigned int slot = zoo->rx_next;
		struct page *page = zoo->rx_pages[slot], *fresh;
		u32 flags, length;

		if (devices_own(&zoo->rx[slot], &flags))
			break;
		length = min_t(u32, le32_to_cpu(zoo->rx[slot].length), RX_LENGTH);
		fresh = page_pool_dev_alloc_pages(zoo->pool);
		if (!fresh || flags & RING_ERROR) {
			zoo->netdev->stats.rx_dropped++;
			if (fresh)
				page_pool_recycle_direct(zoo->pool, fresh);
			give_page(zoo, slot, page);
		} else {
			give_page(zoo, slot, fresh);
			pass_on(zoo, page, length);
		}
		ring_write(zoo->engine.regs, RING_RX_TAIL, slot);
		zoo->rx_next = (slot + 1) % SLOTS;
	}
	return done;
}

static int zoo_net_poll(struct napi_struct *napi, int budget)
{
	struct zoo_net *zoo = container_of(napi, struct zoo_net, napi);
	u32 flags;
	int done;

	clean_tx(zoo, budget);
	done = budget ? receive(zoo, budget) : 0;
	if (done == budget || !napi_complete_done(napi, done))
		return done;
	/* What came since then had its interrupt while NAPI was scheduled. */
	if (!devices_own(&zoo->rx[zoo->rx_next], &flags))
		napi_schedule(napi);
	return done;
}

static irqreturn_t zoo_net_irq(int irq, void *data)
{
	struct zoo_net *zoo = data;

	napi_schedule_irqoff(&zoo->napi);
	return IRQ_HANDLED;
}

static void free_rings(struct zoo_net *zoo)
{
	struct device *dev = zoo->engine.dev;
	unsigned int slot;

	for (slot = 0; slot < SLOTS; slot++) {
		if (zoo->tx_slots[slot].skb)
			free_tx_slot(zoo, slot, 0);
		if (zoo->rx_pages[slot])
			page_pool_put_full_page(zoo->pool, zoo->rx_pages[slot], false);
		zoo->rx_pages[slot] = NULL;
	}
	if (!IS_ERR_OR_NULL(zoo->pool))
		page_pool_destroy(zoo->pool);
	zoo->pool = NULL;
	if (zoo->rx)
		dma_free_coherent(dev, RING_BYTES, zoo->rx, zoo->rx_dma);
	if (zoo->tx)
		dma_free_coherent(dev, RING_BYTES, zoo->tx, zoo->tx_dma);
	zoo->rx = zoo->tx = NULL;
}

static int alloc_rings(struct zoo_net *zoo)
{
	struct device *dev = zoo->engine.dev;
	struct page_pool_params params = {
		.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV,
		.pool_size = 2 * SLOTS,
		.nid = NUMA_NO_NODE,
		.dev = dev,
		.dma_dir = DMA_FROM_DEVICE,
		.offset = HEADROOM,
		.max_len = RX_LENGTH,
	};
	unsigned int slot;

	zoo->tx = dma_alloc_coherent(dev, RING_BYTES, &zoo->tx_dma, GFP_KERNEL);
	zoo->rx = dma_alloc_coherent(dev, RING_BYTES, &zoo->rx_dma, GFP_KERNEL);
	if (!zoo->tx || !zoo->rx)
		return -ENOMEM;
	zoo->pool = page_pool_create(&params);
	if (IS_ERR(zoo->pool))
		return PTR_ERR(zoo->pool);
	for (slot = 0; slot < SLOTS; slot++) {
		struct page *page = page_pool_dev_alloc_pages(zoo->pool);

		if (!page)
			return -ENOMEM;
		give_page(zoo, slot, page);
	}
	zoo->tx_next = zoo->tx_clean = zoo->rx_next = 0;
	return 0;
}

static void start_rings(struct zoo_net *zoo)
{
	void __iomem *regs = zoo->engine.regs;

	ring_write_address(regs, RING_TX_BASE_LO, zoo->tx_dma);
	ring_write(regs, RING_TX_SIZE, SLOTS);
	ring_write_address(regs, RING_RX_BASE_LO, zoo->rx_dma);
	ring_write(regs, RING_RX_SIZE, SLOTS);
	ring_write(regs, RING_RX_TAIL, SLOTS - 1);
}

static void stop_rings(struct zoo_net *zoo)
{
	void __iomem *regs = zoo->engine.regs;

	ring_write(regs, RING_TX_SIZE, 0);
	ring_write(regs, RING_RX_SIZE, 0);
	ring_read(regs, RING_ID);	/* what was under way is over */
}

static int zoo_net_open(struct net_device *netdev)
{
	struct zoo_net *zoo = netdev_priv(netdev);
	struct pci_dev *pdev = zoo->engine.pdev;
	int error;

	error = alloc_rings(zoo);
	if (error)
		goto free;
	error = request_irq(pci_irq_vector(pdev, RING_VECTOR_RX), zoo_net_irq, 0, netdev->name, zoo);
	if (error)
		goto free;
	error = request_irq(pci_irq_vector(pdev, RING_VECTOR_TX), zoo_net_irq, 0, netdev->name, zoo);
	if (error)
		goto free_rx_irq;
	napi_enable(&zoo->napi);
	start_rings(zoo);
	netif_start_queue(netdev);
	return 0;
free_rx_irq:
	free_irq(pci_irq_vector(pdev, RING_VECTOR_RX), zoo);
free:
	free_rings(zoo);
	return error;
}

static int zoo_net_stop(struct net_device *netdev)
{
	struct zoo_net *zoo = netdev_priv(netdev);
	struct pci_dev *pdev = zoo->engine.pdev;

	netif_tx_disable(netdev);
	stop_rings(zoo);
	free_irq(pci_irq_vector(pdev, RING_VECTOR_TX), zoo);
	free_irq(pci_irq_vector(pdev, RING_VECTOR_RX), zoo);
	napi_disable(&zoo->napi);
	free_rings(zoo);
	return 0;
}

static const struct net_device_ops zoo_net_ops = {
	.ndo_open = zoo_net_open,
	.ndo_stop = zoo_net_stop,
	.ndo_start_xmit = zoo_net_xmit,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
};

static int zoo_net_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct net_device *netdev = devm_alloc_etherdev(&pdev->dev, sizeof(struct zoo_net));
	struct zoo_net *zoo;
	int error;

	if (!netdev)
		return -ENOMEM;
	SET_NETDEV_DEV(netdev, &pdev->dev);
	zoo = netdev_priv(netdev);
	zoo->netdev = netdev;
	error = ring_engine_init(&zoo->engine, pdev, 64);
	if (error)
		return error;
	strscpy(netdev->name, "zoo%d", sizeof(netdev->name));
	netdev->netdev_ops = &zoo_net_ops;
	netdev->max_mtu = RX_LENGTH - ETH_HLEN;
	eth_hw_addr_random(netdev);
	netif_napi_add(netdev, &zoo->napi, zoo_net_poll);
	pci_set_master(pdev);
	error = register_netdev(netdev);
	if (error)
		ring_stop(pdev, zoo->engine.regs);
	return error;
}

static void zoo_net_remove(struct pci_dev *pdev)
{
	struct ring_engine *engine = pci_get_drvdata(pdev);
	struct zoo_net *zoo = container_of(engine, struct zoo_net, engine);

	unregister_netdev(zoo->netdev);
	ring_stop(pdev, engine->regs);
}

RING_ENGINE_DRIVER(zoo_net_probe, zoo_net_remove);

MODULE_DESCRIPTION("A network interface with a page_pool");
MODULE_LICENSE("GPL");
